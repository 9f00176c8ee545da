#include "model/observer.h"

namespace pygrok {

std::vector<std::string> NamesOf(MatrixInput input, size_t layer, bool tied) {
  const std::string block = "blk." + std::to_string(layer) + ".";
  switch (input) {
    case MatrixInput::kAttention:
      return {block + "attn_q.weight", block + "attn_k.weight", block + "attn_v.weight"};
    case MatrixInput::kAttentionOutput:
      return {block + "attn_output.weight"};
    case MatrixInput::kRouter:
      return {block + "ffn_gate_inp.weight"};
    case MatrixInput::kExpert:
      return {block + "ffn_gate_exps.weight", block + "ffn_up_exps.weight"};
    case MatrixInput::kExpertHidden:
      return {block + "ffn_down_exps.weight"};
    case MatrixInput::kOutput:
      break;
  }
  return {tied ? "token_embd.weight" : "output.weight"};
}

}  // namespace pygrok
