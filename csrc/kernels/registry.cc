#include "kernels/registry.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/tables.h"

namespace pygrok {
namespace {

struct Entry {
  const KernelTable* table;
  bool (*runs_on)(const CpuFeatures& cpu);
};

// Slowest first. A new instruction set is one line here and one in tables.h.
constexpr Entry kEntries[] = {
    {&kScalarTable, [](const CpuFeatures&) { return true; }},
#if defined(__x86_64__)
    {&kAvx2Table, [](const CpuFeatures& cpu) { return cpu.avx2; }},
    {&kAvx2VnniTable, [](const CpuFeatures& cpu) { return cpu.avx2_vnni; }},
    {&kAvx512Table, [](const CpuFeatures& cpu) { return cpu.avx512; }},
    {&kAvx512VnniTable, [](const CpuFeatures& cpu) { return cpu.avx512_vnni; }},
    {&kAvx512Bf16Table, [](const CpuFeatures& cpu) { return cpu.avx512_bf16; }},
    {&kAvx512AmxTable, [](const CpuFeatures& cpu) { return cpu.avx512_amx; }},
#elif defined(__aarch64__)
    {&kNeonTable, [](const CpuFeatures&) { return true; }},
    {&kNeonDotprodTable, [](const CpuFeatures& cpu) { return cpu.neon_dotprod; }},
    {&kNeonI8mmTable, [](const CpuFeatures& cpu) { return cpu.neon_i8mm; }},
#endif
};

std::string NamesOf(const std::vector<const KernelTable*>& tables) {
  std::string names;
  for (const KernelTable* table : tables) {
    if (!names.empty()) names += ", ";
    names += table->name;
  }
  return names;
}

}  // namespace

const std::vector<const KernelTable*>& CompiledTables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> all;
    for (const Entry& entry : kEntries) all.push_back(entry.table);
    return all;
  }();
  return tables;
}

std::vector<const KernelTable*> SupportedTables() {
  std::vector<const KernelTable*> tables;
  for (const Entry& entry : kEntries) {
    if (entry.runs_on(HostCpu())) tables.push_back(entry.table);
  }
  return tables;
}

const KernelTable& SelectTable(std::string_view name) {
  const std::vector<const KernelTable*> supported = SupportedTables();
  std::string source = "isa";
  if (name.empty()) {
    const char* variable = std::getenv("PYGROK_ISA");
    if (variable == nullptr || *variable == '\0') return *supported.back();
    name = variable;
    source = "PYGROK_ISA";
  }
  for (const KernelTable* table : supported) {
    if (name == table->name) return *table;
  }
  bool compiled = false;
  for (const KernelTable* table : CompiledTables()) compiled |= name == table->name;
  throw std::invalid_argument(source + "='" + std::string(name) + "' is " +
                              (compiled ? "not supported by this processor" : "unknown") +
                              "; choose one of: " + NamesOf(supported));
}

}  // namespace pygrok
