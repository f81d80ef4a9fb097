#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <system_error>
#include <thread>

#include "spin.h"

namespace novograd {

void Pool::run(int threads, const std::function<void()>& work) {
  const std::unique_lock served(caller_, std::try_to_lock);
  if (threads <= 1 || !served) return work();
  {
    const std::lock_guard lock(mutex_);
    grow(threads - 1);
    work_ = &work;
    vacancies_ = std::min(threads - 1, started_);
  }
  called_.notify_all();
  work();
  std::unique_lock lock(mutex_);
  vacancies_ = 0;
  lock.unlock();
  const auto alone = [this] { return working_.load(std::memory_order_acquire) == 0; };
  if (!spin_until(alone)) {
    lock.lock();
    left_.wait(lock, alone);
  }
}

void Pool::grow(int threads) {
  try {
    for (; started_ < threads; ++started_) std::thread(&Pool::serve, this).detach();
  } catch (const std::system_error&) {
    // The system gives no more threads, so fewer threads do the work.
  }
}

void Pool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    called_.wait(lock, [this] { return vacancies_ > 0; });
    --vacancies_;
    working_.fetch_add(1, std::memory_order_relaxed);
    const auto& work = *work_;
    lock.unlock();
    work();
    lock.lock();
    if (working_.fetch_sub(1, std::memory_order_release) == 1) left_.notify_one();
  }
}

Pool& pool() {
  // Never destroyed, since its threads never end. In a forked child these threads do not exist, and
  // a mutex may be locked. So the child does not use the old pool and makes a new one.
  static Pool* current = [] {
    pthread_atfork(nullptr, nullptr, [] { current = new Pool; });
    return new Pool;
  }();
  return *current;
}

}  // namespace novograd
