// Runs the work of a step on several threads.
#pragma once

#include <functional>

namespace novograd {

// Calls `work` on this thread and on up to `threads - 1` other threads at once, and returns when
// all calls have returned. The work must be complete even if only some of these calls run. `work`
// must not throw.
//
// The other threads are the process's OpenMP threads if it has an OpenMP runtime, as with PyTorch
// on Linux: after the backward pass these threads spin for milliseconds, and would keep other
// threads off their cores. Without OpenMP, and after a fork, which OpenMP threads do not survive,
// the other threads are those of `pool()`.
void parallel(int threads, const std::function<void()>& work);

}  // namespace novograd
