#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

#include "pool.h"

namespace novograd {
namespace {

// The entry point of GCC's OpenMP runtime. LLVM's runtime has it, too.
using OpenMp = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

std::atomic<bool> forked = false;

OpenMp openmp() {
  static const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });
  if (watched != 0 || forked) return nullptr;
  return reinterpret_cast<OpenMp>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

}  // namespace

void parallel(int threads, const std::function<void()>& work) {
  if (threads <= 1) return work();
  if (const OpenMp run = openmp()) {
    const auto call = [](void* work) { (*static_cast<const std::function<void()>*>(work))(); };
    run(call, const_cast<std::function<void()>*>(&work), static_cast<unsigned>(threads), 0);
  } else {
    pool().run(threads, work);
  }
}

}  // namespace novograd
