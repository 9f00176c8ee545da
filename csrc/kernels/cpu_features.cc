#include "kernels/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace pygrok {
namespace {

#if defined(__x86_64__)
struct Cpuid {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;

  Cpuid(uint32_t leaf, uint32_t subleaf) { __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx); }
};

bool Bit(uint32_t value, int bit) { return (value >> bit & 1) != 0; }

// The register sets that the operating system saves at a context switch.
uint64_t EnabledState() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Tiles are 8 KB of state, which Linux saves only for a process that asked for it. The permission is for all
// of its threads, and for good.
bool TilesGranted() {
#ifdef __linux__
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // the state's number
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures Detect() {
  CpuFeatures cpu;
  const Cpuid basic(1, 0);
  if (!Bit(basic.ecx, 27)) return cpu;  // OSXSAVE: without it xgetbv is an illegal instruction
  const uint64_t state = EnabledState();
  const bool ymm = (state & 0x06) == 0x06;
  const bool zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state >> 17 & 3) == 3;
  const Cpuid extended(7, 0);
  const Cpuid extended1(7, extended.eax >= 1 ? 1 : 0);
  const bool avx = Bit(basic.ecx, 28), fma = Bit(basic.ecx, 12), f16c = Bit(basic.ecx, 29);
  const bool f = Bit(extended.ebx, 16), dq = Bit(extended.ebx, 17);
  const bool bw = Bit(extended.ebx, 30), vl = Bit(extended.ebx, 31);
  cpu.avx2 = ymm && avx && fma && f16c && Bit(extended.ebx, 5);
  cpu.avx2_vnni = cpu.avx2 && extended.eax >= 1 && Bit(extended1.eax, 4);
  cpu.avx512 = cpu.avx2 && zmm && f && dq && bw && vl;
  cpu.avx512_vnni = cpu.avx512 && Bit(extended.ecx, 11);
  cpu.avx512_bf16 = cpu.avx512_vnni && extended.eax >= 1 && Bit(extended1.eax, 5);
  cpu.avx512_amx =
      cpu.avx512_bf16 && tiles && Bit(extended.edx, 22) && Bit(extended.edx, 24) && TilesGranted();
  return cpu;
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the kernel's interface that the headers of older systems lack.
constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
constexpr unsigned long kInt8Matrix = 1ul << 13;  // HWCAP2_I8MM

CpuFeatures Detect() {
  CpuFeatures cpu;
  cpu.neon_dotprod = (getauxval(AT_HWCAP) & kDotProduct) != 0;
  cpu.neon_i8mm = cpu.neon_dotprod && (getauxval(AT_HWCAP2) & kInt8Matrix) != 0;
  return cpu;
}
#else
CpuFeatures Detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& HostCpu() {
  static const CpuFeatures cpu = Detect();
  return cpu;
}

}  // namespace pygrok
