// A step as a custom call of XLA, for JAX.
#pragma once

namespace novograd {

// The address of the handler, an XLA_FFI_Handler. With n layers it takes `RuleNumbers`, with
// `increment` set; then n gradients, n moments, n v and, unless b = 0 and c = 1, n weights. It returns
// n increments of the weights, in the dtype of the gradients, n moments and n v, which should be
// aliased to gradients, moments and v. Its attribute is `threads`, an int32.
void* xla_step();

}  // namespace novograd
