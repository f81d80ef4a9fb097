// The loops of rounding.h for AVX2, with its instructions: in cache they take 0.7 to 0.9 of the
// time of the loops that GCC makes. They were not compared with those for AVX-512.
//
// Each function processes as many elements as fill whole registers, and returns their number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats.h"
#include "mixed.h"

namespace novograd {
namespace {

// For other types and instruction sets.
template <class C>
std::size_t dequantise_registers(C*, const std::int8_t*, std::size_t, float) {
  return 0;
}

template <class C>
std::size_t quantise_registers(std::int8_t*, const C*, std::size_t, C, std::uint32_t,
                               std::uint64_t) {
  return 0;
}

template <class C>
std::size_t round_registers(StochasticBFloat16*, const C*, std::size_t, std::uint32_t,
                            std::uint64_t) {
  return 0;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
using Words [[gnu::vector_size(32)]] = std::uint32_t;

// The random bits of sixteen elements, eight in each register, in the lower halves of its words.
struct SixteenBits {
  __m256i first, second;
};

// The random bits of elements in their order.
class BitsInOrder {
 public:
  // Whether the elements begin with an even one, and all have the same high word.
  static bool exist(std::uint64_t first, std::size_t size) {
    return first % 2 == 0 && first >> 33 == (first + size) >> 33;
  }

  // The numbers of the pairs have the order that unpacking needs.
  BitsInOrder(std::uint32_t key, std::uint64_t first)
      : key_(mixed(static_cast<std::uint32_t>(first >> 33) ^ key)),
        numbers_(Words{0, 1, 4, 5, 2, 3, 6, 7} + static_cast<std::uint32_t>(first / 2)) {}

  // Returns the bits of the next sixteen elements.
  SixteenBits next() {
    const auto words = reinterpret_cast<__m256i>(mixed(numbers_ ^ key_));
    numbers_ += 8;
    const __m256i zero = _mm256_setzero_si256();
    return {_mm256_unpacklo_epi16(words, zero), _mm256_unpackhi_epi16(words, zero)};
  }

 private:
  std::uint32_t key_;
  Words numbers_;
};

__m256 eight(const std::int8_t* x) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

std::size_t dequantise_registers(float* m, const std::int8_t* q, std::size_t size, float scale) {
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) _mm256_storeu_ps(m + i, eight(q + i) * scale);
  return i;
}

std::size_t quantise_registers(std::int8_t* q, const float* m, std::size_t size, float inverse,
                               std::uint32_t key, std::uint64_t first) {
  if (!BitsInOrder::exist(first, size)) return 0;
  BitsInOrder bits(key, first);
  const auto rounded = [&](const float* x, __m256i random) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_loadu_ps(x) * inverse);
    return _mm256_srai_epi32(_mm256_add_epi32(whole, random), 16);
  };
  const auto sixteen = [&](const float* x) {
    const SixteenBits random = bits.next();
    return _mm256_packs_epi32(rounded(x, random.first), rounded(x + 8, random.second));
  };
  // The places of four elements after the packing.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  std::size_t i = 0;
  for (; i + 32 <= size; i += 32) {
    const __m256i lower = sixteen(m + i), upper = sixteen(m + i + 16);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lower, upper), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), bytes);
  }
  return i;
}

// Ends before an infinity or NaN, which need other instructions.
std::size_t round_registers(StochasticBFloat16* x, const float* value, std::size_t size,
                            std::uint32_t key, std::uint64_t first) {
  if (!BitsInOrder::exist(first, size)) return 0;
  BitsInOrder bits(key, first);
  const auto words = [](const float* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  };
  const auto upper_half = [](__m256i value, __m256i random) {
    return _mm256_srli_epi32(_mm256_add_epi32(value, random), 16);
  };
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  const __m256i infinity = _mm256_set1_epi32(0x7f800000);
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16) {
    const __m256i a = words(value + i), b = words(value + i + 8);
    const __m256i larger = _mm256_max_epu32(a & magnitude, b & magnitude);
    if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(infinity, larger)) != -1) break;
    const SixteenBits random = bits.next();
    const __m256i halves =
        _mm256_packus_epi32(upper_half(a, random.first), upper_half(b, random.second));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x + i), _mm256_permute4x64_epi64(halves, 0xd8));
  }
  return i;
}
#endif

}  // namespace
}  // namespace novograd
