// Threads that sleep between steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>

namespace novograd {

class Pool {
 public:
  // Like `parallel`. It does not wait for threads that wake up too late. While the pool works for
  // one caller, another caller does its work alone.
  void run(int threads, const std::function<void()>& work);

 private:
  void grow(int threads);
  void serve();

  std::mutex caller_;  // locked by the caller for which the pool works
  std::mutex mutex_;   // guards the members below
  std::condition_variable called_, left_;
  const std::function<void()>* work_ = nullptr;
  int vacancies_ = 0;  // number of threads that may still join
  int started_ = 0;
  std::atomic<int> working_ = 0;  // written under the mutex
};

// The pool of this process; a child made by fork gets a new pool.
Pool& pool();

}  // namespace novograd
