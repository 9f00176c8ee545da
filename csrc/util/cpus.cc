#include "util/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace pygrok {
namespace {

int AffinityCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  // More CPUs than a cpu_set_t holds.
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The quota of one cgroup directory in CPUs, or 0 if it sets none. Version 2 keeps "quota period" in one
// file, version 1 in two.
double QuotaCpus(const std::string& directory) {
  double quota = 0;
  double period = 0;
  std::ifstream v2(directory + "/cpu.max");
  if (v2 >> quota >> period && period > 0) return quota / period;
  std::ifstream v1_quota(directory + "/cpu.cfs_quota_us");
  std::ifstream v1_period(directory + "/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

// The tightest quota on the way from this process's cgroup up to the root.
double CgroupCpus() {
  double tightest = 0;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    std::istringstream fields(line);
    std::string id, controllers, path;
    std::getline(fields, id, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    std::string root = "/sys/fs/cgroup";
    if (!controllers.empty()) {
      if (controllers.find("cpu") == std::string::npos || controllers.find("cpuset") == 0) continue;
      root += "/" + controllers;
    }
    while (true) {
      const double cpus = QuotaCpus(root + path);
      if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus;
      const size_t slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return tightest;
}

}  // namespace

int AvailableCpus() {
  int cpus = std::max(1, AffinityCpus());
  const double quota = CgroupCpus();
  if (quota > 0 && quota < cpus) cpus = std::max(1, static_cast<int>(std::ceil(quota)));
  return cpus;
}

}  // namespace pygrok
