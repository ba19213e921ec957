// The text of /metrics.
#include "quern/server/metrics.h"

#include <gtest/gtest.h>

namespace quern::server {
namespace {

TEST(Metrics, HaveTheNamesOfVllm) {
  Metrics metrics("m", 1000, {{"block_size", "128"}});
  Metrics::Generation generation(metrics, 30, 16);
  engine::Output output;
  output.token_ids = {1, 2};
  generation.output(output);
  output.token_ids = {3};
  output.finish_reason = engine::FinishReason::kLength;
  generation.output(output);
  engine::EngineStats stats;
  stats.num_requests_running = 2;
  stats.shared_steps = 5;
  stats.steps_by_tokens[1] = 3;   // 2 to 8 tokens
  stats.steps_by_tokens[13] = 1;  // more than 16384
  stats.step_tokens = 20012;
  stats.prompt_tokens = 30;
  const std::string text = metrics.text(stats);
  for (const char* line : {
           "# TYPE vllm:num_requests_running gauge\n",
           "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 2\n",
           "# TYPE vllm:prompt_tokens_total counter\n",
           "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 30\n",
           "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"m\",le=\"1\"} 0\n",
           "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"m\",le=\"8\"} 3\n",
           "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"m\",le=\"+Inf\"} 4\n",
           "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"m\"} 20012\n",
           "vllm:cache_config_info{engine=\"0\",block_size=\"128\"} 1\n",
           "vllm:request_queue_time_seconds_count{engine=\"0\",model_name=\"m\"} 1\n",
           "vllm:request_prefill_time_seconds_count{engine=\"0\",model_name=\"m\"} 1\n",
           "vllm:request_inference_time_seconds_count{engine=\"0\",model_name=\"m\"} 1\n",
           "vllm:request_time_per_output_token_seconds_count{engine=\"0\",model_name=\"m\"} 1\n",
           "vllm:request_max_num_generation_tokens_sum{engine=\"0\",model_name=\"m\"} 3\n",
           "vllm:request_params_n_bucket{engine=\"0\",model_name=\"m\",le=\"1\"} 1\n",
           "quern:shared_steps_total{engine=\"0\",model_name=\"m\"} 5\n",
           "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} "
           "1\n",
           "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"m\"} 0\n",
           "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"m\"} 1\n",
           "vllm:request_generation_tokens_sum{engine=\"0\",model_name=\"m\"} 3\n",
           "vllm:request_prompt_tokens_bucket{engine=\"0\",model_name=\"m\",le=\"50\"} 1\n",
       }) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\nin\n" << text;
  }
}

}  // namespace
}  // namespace quern::server
