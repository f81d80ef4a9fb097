// Waits for another thread by spinning.
#pragma once

#include <chrono>

namespace novograd {

// Returns whether `done()` became true within some tens of microseconds. If it did not, the other
// thread has probably lost its core. The caller should then sleep, to leave its own core free.
template <class Done>
bool spin_until(const Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(30);
  while (!done()) {
    if (Clock::now() > end) return false;
    for (int i = 0; i < 16; ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("isb");
#endif
    }
  }
  return true;
}

}  // namespace novograd
