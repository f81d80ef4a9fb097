// The pass over a block of a momentum buffer in int8, for AVX2. It keeps everything between the
// loads and the stores in registers. The loops that GCC makes from separate functions keep the
// moments in memory, and take 1.2 times as long in cache. They were not compared for AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats.h"
#include "kernels.h"
#include "prefetch.h"
#include "rounding.h"

namespace novograd {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
__m256 eight(const float* x) { return _mm256_loadu_ps(x); }
__m256 eight(const BFloat16* x) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

void store_eight(float* x, __m256 value) { _mm256_storeu_ps(x, value); }
void store_eight(BFloat16* x, __m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_srli_epi32(bits, 16) & _mm256_set1_epi32(1);
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256 number = _mm256_cmp_ps(value, value, _CMP_ORD_Q);
  const __m256i nan = _mm256_set1_epi32(0x7fc00000);
  const __m256i words = _mm256_blendv_epi8(nan, rounded, _mm256_castps_si256(number));
  const __m256i halves =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_srli_epi32(words, 16), words), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_castsi256_si128(halves));
}

// Whether eight elements can be updated in registers.
template <class W, class G, class Update>
concept UpdatesRegisters = requires(Update update, W* w, const G* g, __m256 x) {
  store_eight(w, update(0, eight(w), eight(g), x));
};

// Replaces `pass_block` of kernels.cpp, which says what it does.
template <class W, class G, class Size, class Update>
  requires UpdatesRegisters<W, G, Update>
float pass_block(W* target, const W* weights, const G* gradient, float* m, const std::int8_t* q,
                 Size size, float scale, Update update, const Place&, const QuantisedAhead& ahead) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  const auto pass_eight = [&](std::size_t i) {
    __m256 moment = eight(q + i) * scale;
    const __m256 w = update(i, eight(weights + i), eight(gradient + i), moment);
    _mm256_storeu_ps(m + i, moment);
    store_eight(target + i, w);
    most = _mm256_max_epu32(most, _mm256_castps_si256(moment) & magnitude);
  };
  // Few requests at a time: the processor does not wait to accept them.
  constexpr std::size_t line = 16;  // float32 in a cache line
  std::size_t i = 0;
  for (; i + line <= size; i += line) {
    prefetch(weights + i, line, ahead.state);
    prefetch(gradient + i, line, ahead.gradient);
    prefetch(q + i, line, ahead.state);
    for (std::size_t j = 0; j < line; j += 8) pass_eight(i + j);
  }
  for (; i + 8 <= size; i += 8) pass_eight(i);
  const std::size_t done = i;
  for (; i < size; ++i) {
    m[i] = static_cast<float>(q[i]) * scale;
    store(target[i], update(i, load(weights[i]), load(gradient[i]), m[i]));
  }
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
  return largest(m + done, size - done, _mm_cvtss_f32(_mm_castsi128_ps(four)));
}
#endif

}  // namespace
}  // namespace novograd
