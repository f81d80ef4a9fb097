// The sum of squares of kernels.cpp for AVX2, with its instructions and all lanes in registers. GCC
// keeps them in memory: in cache, its loop takes 1.6 to 4 times as long for 3,072 to 32 float32.
// This was not compared with the loop for AVX-512.
#pragma once

#include <cstddef>
#include <type_traits>

#include "prefetch.h"

#if defined(__AVX2__) && !defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace novograd {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
template <class G>
constexpr bool sums_in_registers = std::is_floating_point_v<G>;

__m256d four(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
__m256d four(const double* x) { return _mm256_loadu_pd(x); }

// The first `count` of four elements, and zeros.
__m128i first_of_four(int count) {
  return _mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3));
}
__m256d four(const float* x, int count) {
  return _mm256_cvtps_pd(_mm_maskload_ps(x, first_of_four(count)));
}
__m256d four(const double* x, int count) {
  return _mm256_maskload_pd(x, _mm256_cvtepi32_epi64(first_of_four(count)));
}

// Returns the sum of at least one element, with the same bits as the other loops: their lanes get
// no element where these get a zero, which changes no sum of squares.
template <std::size_t lanes, class G>
double sum_in_registers(const G* g, std::size_t size, std::size_t ahead) {
  constexpr std::size_t width = 4, count = lanes / width;
  __m256d lane[count] = {};
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    prefetch(g + i, lanes, ahead);
    for (std::size_t k = 0; k < count; ++k) {
      const __m256d x = four(g + i + k * width);
      lane[k] += x * x;
    }
  }
  if (const int rest = static_cast<int>(size - i); rest > 0) {
    for (std::size_t k = 0; k < count; ++k) {
      const __m256d x = four(g + i + k * width, rest - static_cast<int>(k * width));
      lane[k] += x * x;
    }
  }
  for (std::size_t half = count / 2; half > 0; half /= 2) {
    for (std::size_t k = 0; k < half; ++k) lane[k] += lane[k + half];
  }
  const __m128d two = _mm256_castpd256_pd128(lane[0]) + _mm256_extractf128_pd(lane[0], 1);
  return two[0] + two[1];
}
#else
template <class G>
constexpr bool sums_in_registers = false;

template <std::size_t lanes, class G>
double sum_in_registers(const G*, std::size_t, std::size_t) {
  return 0;
}
#endif

}  // namespace
}  // namespace novograd
