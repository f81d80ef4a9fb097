// Inputs of a step. They do not depend on a framework: a tensor is sizes and addresses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace novograd {

// Weights in `stochastic_bfloat16` are bfloat16, but rounded up or down at random.
enum class Dtype : std::uint8_t { float64, float32, bfloat16, float16, int8, stochastic_bfloat16 };

constexpr std::size_t bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return 8;
    case Dtype::float32: return 4;
    case Dtype::int8: return 1;
    default: return 2;
  }
}

// Where the layers of a tensor lie. All numbers count elements. Layer j consists of `runs` pieces
// of `run` elements each; piece i begins at i*stride + j*run. Pieces must not overlap, also
// not those of different layers.
struct Grid {
  std::size_t runs, layers, run, stride;

  constexpr std::size_t layer_size() const { return runs * run; }
};

// The rows of a tensor that is rounded at random. They say which number an element has in the whole
// tensor, from which its random bits follow.
//
// A row of a momentum buffer in int8 is cut into blocks of `quantised_block` elements; its last
// block may be shorter. The value of an element is its whole number times the scale of its block.
// Not all layers can share blocks: see `has_quantised_pass` in step.h.
constexpr std::size_t quantised_block = 128;
struct Rows {
  float* scales;        // of the blocks, in the order of memory; for a moment in int8
  std::size_t row;      // the number of elements of a row
  std::uint64_t first;  // the number of the first element
  std::uint64_t pitch;  // element j of row i has number first + i*pitch + j
  const float* count;   // the number of earlier steps

  constexpr std::size_t row_scales() const { return (row + quantised_block - 1) / quantised_block; }

  // Returns the number of the element at a place in memory.
  constexpr std::uint64_t number(std::size_t place) const {
    return first + place / row * pitch + place % row;
  }
};

// The layers of one tensor. Each layer has its own v, and its squared norm may be given.
struct Tensor {
  Grid grid;           // the same for weights, gradient, moment and target
  double scale;        // factor of the normalised gradient
  Dtype weight_dtype;  // dtype of `weights` and `target`
  Dtype gradient_dtype;
  Dtype moment_dtype;
  const void* weights;
  const void* gradient;
  void* moment;
  void* v;  // a number for each layer: float64 for float64 weights, else float32
  // The new weights: may be `weights`, `gradient` if it has the same dtype, or null if the moment
  // is not in int8.
  void* target;
  double* squares = nullptr;  // a number for each layer, see step.h; or null
  Rows rows = {};             // for a moment in int8, and for weights in stochastic_bfloat16
};

}  // namespace novograd
