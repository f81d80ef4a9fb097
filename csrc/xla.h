// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// The address of the handler, an XLA_FFI_Handler. Its attributes are `layers`, their number n, and
// `threads`, both int32. It takes `RuleNumbers`, with `increment` set; then n gradients, n moments,
// n v and, unless b = 0 and c = 1, n weights. It returns n moments and n v, which should be aliased to
// those that it took; and before them, where they are wanted, n increments of the weights, in the
// dtype of the gradients, to which they should be aliased.
void* xla_step();

}  // namespace novograd
