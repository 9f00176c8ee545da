// Since 2023 (Sapphire Rapids): products of bfloat16 on tile registers too.
#include "kernels/simd_amx.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"
// Builds on the codecs.
#include "kernels/matmul_amx.inl.h"

namespace pygrok {
namespace {

template <class Weights>
constexpr void AddTiles(KernelTable& table, TensorType type) {
  WeightKernels& kernels = table.weights[static_cast<size_t>(type)];
  kernels.many_activation = Weights::kActivation;
  kernels.matmul_many = MatmulTiles<Weights>;
}

constexpr KernelTable AmxTable() {
  KernelTable table = MakeTable("avx512_amx", "AVX-512 with VNNI and BF16, and AMX tiles of bfloat16");
  AddTiles<PlainWeights>(table, TensorType::kBF16);
  AddTiles<ExactWeights<CodecQ8_0>>(table, TensorType::kQ8_0);
  AddTiles<RoundedWeights<CodecQ4_0>>(table, TensorType::kQ4_0);
  AddTiles<RoundedWeights<CodecQ4_1>>(table, TensorType::kQ4_1);
  AddTiles<RoundedWeights<CodecQ5_0>>(table, TensorType::kQ5_0);
  AddTiles<RoundedWeights<CodecQ5_1>>(table, TensorType::kQ5_1);
  AddTiles<RoundedWeights<CodecQ2_K>>(table, TensorType::kQ2_K);
  AddTiles<RoundedWeights<CodecQ3_K>>(table, TensorType::kQ3_K);
  AddTiles<RoundedWeights<CodecQ4_K>>(table, TensorType::kQ4_K);
  AddTiles<RoundedWeights<CodecQ5_K>>(table, TensorType::kQ5_K);
  AddTiles<RoundedWeights<CodecQ6_K>>(table, TensorType::kQ6_K);
  AddTiles<RoundedWeights<CodecIQ2_XXS>>(table, TensorType::kIQ2_XXS);
  AddTiles<RoundedWeights<CodecIQ2_XS>>(table, TensorType::kIQ2_XS);
  AddTiles<RoundedWeights<CodecIQ3_XXS>>(table, TensorType::kIQ3_XXS);
  AddTiles<RoundedWeights<CodecIQ1_S>>(table, TensorType::kIQ1_S);
  AddTiles<RoundedWeights<CodecIQ4_NL>>(table, TensorType::kIQ4_NL);
  AddTiles<RoundedWeights<CodecIQ3_S>>(table, TensorType::kIQ3_S);
  AddTiles<RoundedWeights<CodecIQ2_S>>(table, TensorType::kIQ2_S);
  AddTiles<RoundedWeights<CodecIQ4_XS>>(table, TensorType::kIQ4_XS);
  AddTiles<RoundedWeights<CodecIQ1_M>>(table, TensorType::kIQ1_M);
  AddTiles<RoundedWeights<CodecTQ1_0>>(table, TensorType::kTQ1_0);
  AddTiles<RoundedWeights<CodecTQ2_0>>(table, TensorType::kTQ2_0);
  AddTiles<RoundedWeights<CodecMXFP4>>(table, TensorType::kMXFP4);
  table.dot_rounds = TileRounds;
  table.dot_macs_per_round = kTileMacs;
  return table;
}

}  // namespace

constinit const KernelTable kAvx512AmxTable = AmxTable();

}  // namespace pygrok
