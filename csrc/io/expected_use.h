// How soon each expert is expected to be needed again.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace pygrok {

// The chance p that the next token uses an expert is learnt as decayed shares of past tokens, with several
// half-lives at once; each counts by how well it foretold the routing so far (log loss, itself decayed).
// Layers come in order, once a token; so an expert of the next layer is expected after 1 + (1/p - 1) * layers
// layers, one of the layer just computed a whole round later. Measured in docs/paging.md.
class ExpectedUse {
 public:
  ExpectedUse(size_t layers, size_t experts);

  // The layer is being computed for `tokens` tokens, of which shares [experts] use each expert.
  void Observe(size_t layer, std::span<const float> shares, size_t tokens);
  // From now on the group counts as one that nearly every token uses, until tokens teach otherwise.
  void Favor(size_t group);

  // In layers, from now on.
  double Distance(size_t group) const;
  // The same for an expert that is needed the next time its layer comes.
  double NextVisit(size_t group) const;

 private:
  static constexpr size_t kMemories = 4;
  using Values = std::array<double, kMemories>;  // by half-life

  void Judge(size_t layer, std::span<const float> shares);

  const size_t layers_;
  const size_t experts_;
  size_t now_;                 // the layer that was observed last
  std::vector<Values> share_;  // [layers * experts]
  std::vector<double> seen_;   // [layers] tokens, for a fast start
  Values loss_{};
  Values weight_;
};

}  // namespace pygrok
