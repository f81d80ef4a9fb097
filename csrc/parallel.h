// Who does the work of a step.
#pragma once

#include <functional>

namespace novograd {

// Calls `work` on this thread and on up to `threads - 1` others at once; returns when it has
// returned wherever it was called. `work` has to be complete whichever of these calls do it, and
// must not throw.
//
// The others are those of the process's OpenMP team if it has one, as with PyTorch on Linux: after
// the backward pass they spin for milliseconds, and would keep other threads off their cores.
// Otherwise, and after a fork, which no OpenMP team survives, they are those of `pool()`.
void parallel(int threads, const std::function<void()>& work);

}  // namespace novograd
