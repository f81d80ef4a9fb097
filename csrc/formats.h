// Number formats in memory, for kernels.cpp, which explains why everything here is internal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

// For a loop whose iterations do not depend on each other.
#if defined(__clang__)
#define NOVOGRAD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define NOVOGRAD_INDEPENDENT _Pragma("GCC ivdep")
#else
#define NOVOGRAD_INDEPENDENT
#endif

namespace novograd {
namespace {

// Formats without a type in C++20.
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};
// A bfloat16 that is rounded at random when it is stored.
struct StochasticBFloat16 {
  std::uint16_t bits;
};

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

double load(double x) { return x; }
float load(float x) { return x; }
float load(BFloat16 x) { return from_bits(std::uint32_t{x.bits} << 16); }
float load(StochasticBFloat16 x) { return from_bits(std::uint32_t{x.bits} << 16); }

// Rounds a float to the nearest bfloat16, ties to even. The result is in the upper half of the
// word.
std::uint32_t round_to_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  // Adds just under half of the last place that is kept, and its bit: ties go to even.
  return value != value ? 0x7fc00000 : bits + 0x7fff + (bits >> 16 & 1);
}

void store(double& x, double value) { x = value; }
void store(float& x, float value) { x = value; }
void store(BFloat16& x, float value) {
  x.bits = static_cast<std::uint16_t>(round_to_bfloat16(value) >> 16);
}

// Without branches, so that compilers vectorise loops. From F. Giesen's half_to_float_fast5 and
// float_to_half_fast3_rtne, which are in the public domain.
#if !defined(__F16C__)
float load(Float16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t shifted = std::uint32_t{x.bits & 0x7fffu} << 13;
  const std::uint32_t exponent = shifted & 0x0f800000;
  const std::uint32_t normal = shifted + 0x38000000;
  const std::uint32_t infinite = normal + 0x38000000;
  // Subnormal numbers: makes 2^-14 plus the number, and subtracts 2^-14.
  const std::uint32_t small = bits_of(from_bits(normal + 0x00800000) - from_bits(0x38800000));
  return from_bits(sign | (exponent == 0x0f800000 ? infinite : exponent == 0 ? small : normal));
}

void store(Float16& x, float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const std::uint32_t odd = (magnitude >> 13) & 1;
  const std::uint32_t normal = (magnitude - 0x38000000 + 0xfff + odd) >> 13;
  // Below 2^-14: adding 0.5 makes the hardware round to multiples of 2^-24.
  const std::uint32_t small = bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000;
  const std::uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const std::uint32_t half = magnitude >= 0x47800000  ? large
                             : magnitude < 0x38800000 ? small
                                                      : normal;
  x.bits = static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000));
}
#endif

// Numbers that are rounded at random are converted in blocks. Compilers do not vectorise the
// processor's conversion instructions for float16; so, with these instructions, float16 is too.
constexpr std::size_t block = 256;

template <class T>
const T* widen(const T* x, T*, std::size_t) {
  return x;
}

template <class T>
struct Buffered {
  using type = T;
};

template <>
struct Buffered<StochasticBFloat16> {
  using type = float;
};

const float* widen(const StochasticBFloat16* x, float* buffer, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) buffer[i] = load(x[i]);
  return buffer;
}

#if defined(__F16C__)
template <>
struct Buffered<Float16> {
  using type = float;
};

const float* widen(const Float16* x, float* buffer, std::size_t size) {
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(half));
  }
  for (; i < size; ++i) buffer[i] = _cvtsh_ss(x[i].bits);
  return buffer;
}

void narrow(Float16* x, const float* buffer, std::size_t size) {
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(buffer + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x + i), half);
  }
  for (; i < size; ++i) x[i].bits = _cvtss_sh(buffer[i], _MM_FROUND_TO_NEAREST_INT);
}
#endif

template <class T>
constexpr bool buffered = !std::is_same_v<T, typename Buffered<T>::type>;

}  // namespace
}  // namespace novograd
