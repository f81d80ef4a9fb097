// A few threads that sleep between steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>

namespace novograd {

class Pool {
 public:
  // As `parallel`. A thread that wakes up too late is not waited for; and while one caller is
  // served, another is on its own.
  void run(int threads, const std::function<void()>& work);

 private:
  void grow(int threads);
  void serve();

  std::mutex caller_;  // held by the caller that is served
  std::mutex mutex_;   // guards what follows
  std::condition_variable called_, left_;
  const std::function<void()>* work_ = nullptr;
  int vacancies_ = 0;  // threads that may still join in
  int started_ = 0;
  std::atomic<int> working_ = 0;  // written under the mutex
};

// The pool of this process; a child made by fork gets one of its own.
Pool& pool();

}  // namespace novograd
