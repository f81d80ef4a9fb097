// What a step has to move, moved as plainly as can be: a bound for its time.
#pragma once

#include <cstddef>

namespace novograd {

// Reads `gradient`, and then again with `weights` and `moment`, which are written: 24 bytes for
// each of `size` elements. Every thread does so to a part of its own, in one go.
void traffic(float* weights, const float* gradient, float* moment, std::size_t size, int threads);

}  // namespace novograd
