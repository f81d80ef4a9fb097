#include "traffic.h"

#include <atomic>

#include "kernels.h"
#include "parallel.h"

namespace novograd {

void traffic(float* weights, const float* gradient, float* moment, std::size_t size, int threads) {
  const SquareSum square_sum = kernels().square_sum(Dtype::float32);
  const LinearPass pass = kernels().linear_pass(Dtype::float32, Dtype::float32, Dtype::float32);
  const auto parts = static_cast<std::size_t>(threads);
  std::atomic<std::size_t> next = 0;
  parallel(threads, [&] {
    for (std::size_t part = next++; part < parts; part = next++) {
      const std::size_t start = size * part / parts, length = size * (part + 1) / parts - start;
      Scalars scalars{};
      // Depends on the sum, so that it is computed, and does not overflow, whatever the sum is.
      scalars.beta1 = scalars.a = 0.5 + 1e-300 * square_sum(gradient + start, length);
      scalars.c = 0.5, scalars.d = 1e-3;
      pass(weights + start, weights + start, gradient + start, moment + start, length, scalars);
    }
  });
}

}  // namespace novograd
