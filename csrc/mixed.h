// The hash from which all random bits follow. For kernels.cpp, which explains why everything here
// is internal.
#pragma once

namespace novograd {
namespace {

// Mixes the bits of a word, or of several. The constants are those of Chris Wellons'
// hash-prospector, "16 21f0aaad 15 d35a2d97 15".
template <class Word>
Word mixed(Word x) {
  x = (x ^ x >> 16) * 0x21f0aaadu;
  x = (x ^ x >> 15) * 0xd35a2d97u;
  return x ^ x >> 15;
}

}  // namespace
}  // namespace novograd
