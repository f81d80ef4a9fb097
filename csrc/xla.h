// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// The address of the handler, an XLA_FFI_Handler. Its attributes are `threads`, an int32, and for
// each of n leaves its `grids`, the four numbers of a Grid as int64, and its `scales`, a float64.
// It takes `RuleNumbers`, then n gradients, n moments, n v and, unless b = 0 and c = 1, n weights.
// It returns n targets, if wanted, n moments and n v; the last two should be aliased to those that
// it took. The targets have the dtype of the gradients. With `increment` set they should be aliased
// to these, otherwise to the weights.
void* xla_step();

}  // namespace novograd
