// The mixture of experts: router, grouping of tokens by expert, the gated feed-forward of each.
#pragma once

#include <vector>

#include "model/compute.h"

namespace pygrok {

// One token's use of one expert.
struct Route {
  size_t expert;
  size_t row;
  float weight;
};

// The `used` most probable experts of each row, given router probabilities [rows][experts]; on a tie the
// lower index. The weights stay what the softmax over ALL experts gave: Grok-1 does not renormalize. Ordered
// by expert, then by row.
std::vector<Route> RouteTokens(const float* probabilities, size_t rows, size_t experts, size_t used);

class InputObserver;

class Experts {
 public:
  Experts(const Config& config, Compute& compute);

  // out [n][embedding] = sum over the routed experts e of p_e * down_e(gelu(gate_e x) * up_e x), for x
  // [n][embedding]. An observer sees the router's input and each expert's, as those of layer `index`.
  void Forward(const LayerWeights& layer, const float* x, size_t n, float* out,
               InputObserver* observer = nullptr, size_t index = 0);

 private:
  // Routes [begin, end) of whole experts through their matrices at once; adds to out.
  void RunGroup(const LayerWeights& layer, const float* x, const std::vector<Route>& routes, size_t begin,
                size_t end, float* out, InputObserver* observer, size_t index);

  const Config& config_;
  Compute& compute_;
  Activations input_;
  Activations hidden_;
  Buffer<float> probabilities_;
  Buffer<std::byte> gathered_[kForms];  // a group's activation rows in route order
  Buffer<float> gate_, up_, down_;
};

}  // namespace pygrok
