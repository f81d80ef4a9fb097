// One step of all layers.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "kernels.h"
#include "layer.h"
#include "scalars.h"

namespace novograd {

// Updates target, moment and v of each layer, on up to `threads` threads. The result does not
// depend on their number. There must be a linear pass for the dtypes, and no memory that is written
// may overlap any other, but for a target that is its layer's weights or gradient.
void step(std::span<const Layer> layers, const Rule& rule, const Kernels& kernels, int threads);

// Two layers, by their numbers, of which one writes to memory of the other; or one, with itself.
std::optional<std::pair<std::size_t, std::size_t>> overlap(std::span<const Layer> layers);

}  // namespace novograd
