// The fastest loop that we know for the work of a step without its order: a lower bound for the
// time of a step.
#pragma once

#include <cstddef>

namespace novograd {

// Divides the arrays into blocks. For each block, computes the square sum of the gradient and then
// the linear pass, while the gradient is in the cache: 20 bytes of memory for each of `size`
// elements. A step is slower if a layer is larger than a block, because its pass needs the sum of
// the whole layer.
void traffic(float* weights, const float* gradient, float* moment, std::size_t size, int threads);

}  // namespace novograd
