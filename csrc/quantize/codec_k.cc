// Super-blocks of 256 values.
#include "quantize/k_blocks.inl.h"

namespace pygrok {

std::span<const Codec> KCodecs(CodecIsa isa) {
  return CodecsFor<BlockQ2_K, BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K, BlockIQ4_XS>(isa);
}

}  // namespace pygrok
