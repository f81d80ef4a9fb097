// The loops over memory and over layers, compiled once for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scalars.h"
#include "tensor.h"

namespace novograd {

// How many bytes ahead the loops ask for memory, or 0 to leave that to the processor: sums of
// gradients in full and in half precision, and passes. Several streams share the distance.
struct Ahead {
  std::size_t sum, half_sum, pass, quantised;
};

// Returns the sum of the squares of `size` elements.
using SquareSum = double (*)(const void* gradient, std::size_t size, std::size_t ahead);

// Does the linear pass with `scalars`, in float32, or in float64 for float64 weights. If `target`
// is null, only the momentum buffer is written. `start` is the index of the first element in the
// tensor; the addresses are those of this element.
using LinearPass = void (*)(void* target, const void* weights, const void* gradient, void* moment,
                            std::size_t start, std::size_t size, const Rows& rows,
                            const Scalars& scalars, std::size_t ahead);

// The distances of a pass with a momentum buffer in int8: for weights and moments, and for the
// gradient. The latter may lead to the gradient of the sums after the pass.
struct QuantisedAhead {
  std::size_t state, gradient;
};

// The same for whole blocks of a momentum buffer in int8. No address is null.
using QuantisedPass = void (*)(void* target, const void* weights, const void* gradient,
                               std::int8_t* moment, std::size_t start, std::size_t size,
                               const Rows& rows, const Scalars& scalars,
                               const QuantisedAhead& ahead);

// A group of layers that share blocks of a momentum buffer in int8: `columns` elements of each of
// `rows` rows from `first_row`, from element `start` of a row. They belong to `layers` layers with
// `run` neighbours each, and to all of them again if the row is longer. If `skips`, layers whose
// squared norm is not finite do not change: their target receives the old weights, or 0 if
// `increment`.
constexpr std::size_t longest_shared = 4096;  // the most elements of the group in a row
struct SharedBlocks {
  std::size_t first_row, rows, start, columns, layers, run;
  bool skips, increment;
};

// Does the linear pass for such a group. The addresses are those of the first element of the group,
// and no one is null.
using SharedBlockPass = void (*)(void* target, const void* weights, const void* gradient,
                                 std::int8_t* moment, const SharedBlocks& shape, const Rows& rows,
                                 const GroupScalars* scalars);

// Columns of matrices with `stride` elements from row to row.
struct Columns {
  std::size_t rows, columns, stride;
};

// Writes the sum of the squares of each column to `s`.
using ColumnSums = void (*)(const void* gradient, const Columns& shape, double* s);

// Does the linear pass with the scalars of each column, of which there are at most `most_columns`.
constexpr std::size_t most_columns = 1024;
using ColumnPass = void (*)(void* target, const void* weights, const void* gradient, void* moment,
                            std::size_t start, const Columns& shape, const Rows& rows,
                            const GroupScalars* scalars);

// Computes the scalars of layers of a tensor from their squared norms, and updates their v.
using AdvanceGroup = void (*)(const Rule& rule, double scale, void* v, std::size_t layers,
                              GroupScalars& scalars);

// The loops for one instruction set. The functions return null if there is no loop for the dtypes.
// float64 weights need a float64 gradient, other weights a gradient of any other dtype but int8.
// The momentum buffer is in the dtype of the weights, in bfloat16, or in float32 if the weights are
// not float64. For a momentum buffer in int8, `quantised_pass` and `shared_block_pass` replace
// `linear_pass`.
struct Kernels {
  const char* name;
  SquareSum (*square_sum)(Dtype gradient);
  ColumnSums (*column_sums)(Dtype gradient);
  LinearPass (*linear_pass)(Dtype weights, Dtype gradient, Dtype moment);
  QuantisedPass (*quantised_pass)(Dtype weights, Dtype gradient);
  SharedBlockPass (*shared_block_pass)(Dtype weights, Dtype gradient);
  ColumnPass (*column_pass)(Dtype weights, Dtype gradient, Dtype moment);
  AdvanceGroup (*advance)(Dtype weights);
};

// The kernels that this machine can run, the best last.
std::vector<const Kernels*> supported_kernels();

// The best of `supported_kernels()`, or those that the environment variable NOVOGRAD_ISA names.
// Throws std::invalid_argument if this machine cannot run them.
const Kernels& kernels();

// The best distances for this machine, or those of the environment variable NOVOGRAD_AHEAD: two
// numbers of bytes with a comma between them, for the sums and for all passes. No distance changes
// a result. Throws std::invalid_argument if the variable has another form.
Ahead ahead();

}  // namespace novograd
