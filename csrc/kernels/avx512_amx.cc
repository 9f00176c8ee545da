// Since 2023 (Sapphire Rapids): products of bytes on tile registers too.
#include "kernels/simd_amx.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {
namespace {

constexpr KernelTable AmxTable() {
  KernelTable table = MakeTable("avx512_amx", "AVX-512 with VNNI and BF16, and AMX tiles of bytes");
  table.int8_rounds = TileRounds;
  table.int8_macs_per_round = kTileMacs;
  return table;
}

}  // namespace

constinit const KernelTable kAvx512AmxTable = AmxTable();

}  // namespace pygrok
