// Most 64-bit ARM processors since 2021.
#include "kernels/simd_neon.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {
namespace {

constexpr KernelTable MakeMatrixTable() {
  KernelTable table = MakeTable("neon_i8mm", "NEON with dot products and int8 matrix products");
  table.dot_rounds = MatrixRounds;
  table.dot_macs_per_round = kDotChains * kMacsPerProduct;
  return table;
}

}  // namespace

constinit const KernelTable kNeonI8mmTable = MakeMatrixTable();

}  // namespace pygrok
