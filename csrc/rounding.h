// Momentum buffers in int8, and rounding at random: the functions of novograd/quantized.py and
// novograd/rounding.py, in C++.
//
// For kernels.cpp, which explains why everything here is internal. The loops have no branches, so
// that compilers vectorise them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "formats.h"
#include "mixed.h"
#include "rounding_avx2.h"
#include "tensor.h"

namespace novograd {
namespace {

// The purposes of random bits. Those of a moment and of its weights differ.
constexpr std::uint32_t for_moment = 0x9e3779b9, for_weights = 0x243f6a88;

// Returns the word from which all random bits of a step follow, from the number of earlier steps.
std::uint32_t step_key(float count, std::uint32_t purpose) {
  return mixed(static_cast<std::uint32_t>(count) ^ purpose);
}

// What the random bits of the weights of a piece follow from, if they are rounded at random.
struct Place {
  std::uint32_t key;
  std::uint64_t first;  // the number of the first element in the whole tensor
};

// The random bits of up to `block` elements, from the number of the first one in the whole tensor.
// A word has the bits of two neighbours: the even one has the lower half.
class RandomBits {
 public:
  using Half [[gnu::may_alias]] = std::uint16_t;

  RandomBits(std::uint32_t key, std::uint64_t first, std::size_t size) : odd_(first & 1) {
    const std::uint64_t pair = first / 2;
    const auto low = static_cast<std::uint32_t>(pair),
               high = static_cast<std::uint32_t>(pair >> 32);
    const std::size_t last = size / 2;
    fill(0, last, low, mixed(high ^ key));
    if (low > 0xffffffff - last) fill(0 - low, last, low, mixed((high + 1) ^ key));
  }

  // Returns the bits of the first element, then those of the others.
  const Half* begin() const { return reinterpret_cast<const Half*>(words_) + odd_; }

 private:
  void fill(std::uint32_t start, std::size_t last, std::uint32_t low, std::uint32_t key) {
    for (std::size_t i = start; i <= last; ++i) {
      words_[i] = mixed((low + static_cast<std::uint32_t>(i)) ^ key);
    }
  }

  std::size_t odd_;
  alignas(64) std::uint32_t words_[block / 2 + 1];
};

// Rounds floats to bfloat16, each up or down by chance. An infinity or NaN stays what it is.
void round_at_random(StochasticBFloat16* x, const float* value, std::size_t size, std::uint32_t key,
                     std::uint64_t first) {
  const std::size_t done = round_registers(x, value, size, key, first);
  if (done == size) return;
  x += done, value += done, size -= done, first += done;
  const RandomBits random(key, first, size);
  const RandomBits::Half* bits = random.begin();
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint32_t word = bits_of(value[i]), magnitude = word & 0x7fffffff;
    const std::uint32_t half = bits[i], up = magnitude < 0x7f800000 ? half : 0;
    // A NaN whose bits are all in the lower half would become an infinity.
    const std::uint32_t nan = magnitude > 0x7f800000 ? 0x00400000 : 0;
    x[i].bits = static_cast<std::uint16_t>(((word + up) | nan) >> 16);
  }
}

template <class C>
void dequantise(C* m, const std::int8_t* q, std::size_t size, float scale) {
  const std::size_t done = dequantise_registers(m, q, size, scale);
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = done; i < size; ++i) m[i] = static_cast<C>(q[i]) * static_cast<C>(scale);
}

// Returns the largest magnitude, at least `most`; infinity and NaN are larger than every number.
// Magnitudes are compared as whole numbers, which have the same order: then compilers may change
// the order of the comparisons.
template <class C>
C largest(const C* m, std::size_t size, C most) {
  using Bits = std::conditional_t<sizeof(C) == 8, std::uint64_t, std::uint32_t>;
  constexpr Bits magnitude = std::numeric_limits<Bits>::max() / 2;
  Bits found;
  std::memcpy(&found, &most, sizeof found);
  for (std::size_t i = 0; i < size; ++i) {
    Bits bits;
    std::memcpy(&bits, m + i, sizeof bits);
    bits &= magnitude;
    found = found < bits ? bits : found;
  }
  C value;
  std::memcpy(&value, &found, sizeof value);
  return value;
}

// Each compiler vectorises its own form.
#if defined(__clang__)
std::int32_t nearest(float x) { return static_cast<std::int32_t>(__builtin_rintf(x)); }
std::int32_t nearest(double x) { return static_cast<std::int32_t>(__builtin_rint(x)); }
#else
std::int32_t nearest(float x) { return __builtin_irintf(x); }
std::int32_t nearest(double x) { return __builtin_irint(x); }
#endif

// The scale of a block, and the factor of its elements.
template <class C>
struct BlockScale {
  float scale;
  C inverse;  // 0: all elements become 0

  // From the largest magnitude of its elements.
  explicit BlockScale(C largest) {
    const auto most = static_cast<float>(largest);
    const bool finite = most - most == 0, any = most > 127 * 0x1p-100f;
    scale = !finite ? std::numeric_limits<float>::quiet_NaN() : any ? most / 127 : 0;
    // In units of 2^-16 the random bits are whole numbers. The largest value becomes 1 less than
    // 127*2^16, so that rounding errors cannot lead to 128.
    inverse = finite && any ? (127 * 65536 - 1) / most : 0;
  }
};

// Rounds a block to multiples of its scale, each up or down by chance.
template <class C>
void quantise(std::int8_t* q, const C* m, std::size_t size, C inverse, std::uint32_t key,
              std::uint64_t first) {
  if (inverse == 0) {
    std::memset(q, 0, size);
    return;
  }
  const std::size_t done = quantise_registers(q, m, size, inverse, key, first);
  if (done == size) return;
  q += done, m += done, size -= done, first += done;
  const RandomBits random(key, first, size);
  const RandomBits::Half* bits = random.begin();
  NOVOGRAD_INDEPENDENT
  for (std::size_t i = 0; i < size; ++i) {
    q[i] = static_cast<std::int8_t>((nearest(m[i] * inverse) + bits[i]) >> 16);
  }
}

}  // namespace
}  // namespace novograd
