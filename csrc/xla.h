// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// Returns the address of the handler, an XLA_FFI_Handler, for n leaves. Its attributes are
// `threads` (an int32), `grids` (four int64 for each leaf, the numbers of a Grid) and `scales` (a
// float64 for each leaf). Its arguments are `RuleNumbers`, then n gradients, n momentum buffers, n
// v and, unless b = 0 and c = 1, n weights. Its results are n targets, if wanted, n momentum
// buffers and n v. The caller should alias the momentum buffers and v to the arguments. The targets
// have the dtype of the gradients; the caller should alias them to the gradients if `increment` is
// set, else to the weights.
void* xla_step();

}  // namespace novograd
