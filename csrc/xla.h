// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// Returns the address of the handler, an XLA_FFI_Handler, for n leaves. Its attributes are
// `threads` (an int32), `grids` (four int64 for each leaf, the numbers of a Grid), `scales` (a
// float64 for each leaf) and `rows` (an int64 for each leaf: the elements of a row of a momentum
// buffer in int8, else 0). Its arguments are `RuleNumbers`, then n gradients, n momentum buffers, n
// v and, unless b = 0 and c = 1, n weights. If buffers are in int8, the number of earlier steps
// (float32) and the scales of the blocks of each such buffer follow. Its results are n targets, n
// momentum buffers, n v and the scales of blocks. Without buffers in int8 the targets may be left
// out. The caller should alias the state to the arguments. The targets have the dtype of the
// gradients; the caller should alias them to the gradients if `increment` is set, else to the
// weights.
void* xla_step();

}  // namespace novograd
