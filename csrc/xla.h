// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// The address of the handler, an XLA_FFI_Handler. Its attributes are `layers`, their number n, and
// `threads`, both int32. It takes `RuleNumbers`, then n gradients, n moments, n v and, unless b = 0
// and c = 1, n weights. It returns n targets, if wanted, n moments and n v; the last two should be
// aliased to those that it took. The targets have the dtype of the gradients. With `increment` set
// they should be aliased to these, otherwise to the weights.
void* xla_step();

}  // namespace novograd
