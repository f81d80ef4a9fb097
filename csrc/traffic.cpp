#include "traffic.h"

#include <algorithm>
#include <atomic>

#include "kernels.h"
#include "parallel.h"

namespace novograd {

void traffic(float* weights, const float* gradient, float* moment, std::size_t size, int threads) {
  constexpr std::size_t block = 1 << 16;  // the fastest, of 2^14 to 2^20
  const SquareSum square_sum = kernels().square_sum(Dtype::float32);
  const LinearPass pass = kernels().linear_pass(Dtype::float32, Dtype::float32, Dtype::float32);
  const Ahead distance = ahead();
  std::atomic<std::size_t> next = 0;
  parallel(threads, [&] {
    for (std::size_t start = block * next++; start < size; start = block * next++) {
      const std::size_t length = std::min(block, size - start);
      Scalars scalars{};
      // Depends on the sum, so that it is computed, and does not overflow, whatever the sum is.
      scalars.a = 0.5 + 1e-300 * square_sum(gradient + start, length, distance.sum);
      scalars.beta1 = scalars.c = 0.5, scalars.d = 1e-3;
      pass(weights + start, weights + start, gradient + start, moment + start, start, length, {},
           scalars, distance.pass);
    }
  });
}

}  // namespace novograd
