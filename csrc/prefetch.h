// Asks for memory before it is needed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace novograd {
namespace {

// Asks for the memory that is `ahead` bytes after `size` elements.
template <class T>
void prefetch(const T* x, std::size_t size, std::size_t ahead) {
  constexpr std::size_t line = 64;
  const auto start = reinterpret_cast<std::uintptr_t>(x) + ahead;
  for (std::size_t i = 0; i < size * sizeof(T); i += line) {
    __builtin_prefetch(reinterpret_cast<const void*>(start + i));
  }
}

}  // namespace
}  // namespace novograd
