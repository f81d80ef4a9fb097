// A simple loop that moves as many bytes as a step must: a bound for the time of a step.
#pragma once

#include <cstddef>

namespace novograd {

// Reads `gradient`, then reads all three arrays and writes `weights` and `moment`: 24 bytes for
// each of `size` elements. Each thread does so for one part of the arrays.
void traffic(float* weights, const float* gradient, float* moment, std::size_t size, int threads);

}  // namespace novograd
