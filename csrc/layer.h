// What a step is taken of. Nothing here knows a framework: a layer is sizes and addresses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace novograd {

enum class Dtype : std::uint8_t { float64, float32, bfloat16, float16 };

constexpr std::size_t bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return 8;
    case Dtype::float32: return 4;
    default: return 2;
  }
}

// One layer: `size` elements that share one v. Weights, gradient and moment lie in the same order.
struct Layer {
  std::size_t size;
  Dtype weight_dtype;  // of `weights` and `target`
  Dtype gradient_dtype;
  Dtype moment_dtype;
  const void* weights;
  const void* gradient;
  void* moment;
  void* v;       // one number: float64 for float64 weights, else float32
  void* target;  // the new weights; may be `weights`, or `gradient` where the dtypes agree; or null
};

}  // namespace novograd
