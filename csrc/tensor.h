// What a step is taken of. Nothing here knows a framework: a tensor is sizes and addresses.
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

// Where the layers of a tensor lie, in elements: layer j is `runs` pieces of memory of `run`
// elements each, piece i of them at i*stride + j*run. Neither pieces nor layers may overlap.
struct Grid {
  std::size_t runs, layers, run, stride;

  constexpr std::size_t layer_size() const { return runs * run; }
};

// Layers that lie in one tensor. Each has a v of its own, and perhaps a given sum of squares.
struct Tensor {
  Grid grid;           // of weights, gradient, moment and target alike
  double scale;        // factor of the normalised gradient
  Dtype weight_dtype;  // of `weights` and `target`
  Dtype gradient_dtype;
  Dtype moment_dtype;
  const void* weights;
  const void* gradient;
  void* moment;
  void* v;       // a number for each layer: float64 for float64 weights, else float32
  void* target;  // the new weights; may be `weights`, or `gradient` where the dtypes agree; or null
  double* squares = nullptr;  // a number for each layer, see step.h; or null
};

}  // namespace novograd
