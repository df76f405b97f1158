// The client as reward-client-kit wants to see it; docs/client-kit.md says what it has to do.
import { isTerminal, RewardClient, RewardError, StreamStart } from "@rewardservice/client";

const env = process.env;
const print = (line) => console.log(JSON.stringify(line));
const client = new RewardClient({
  target: env.REWARD_TARGET,
  key: env.REWARD_KEY,
  backoff: { initialMs: Number(env.REWARD_BACKOFF_SECONDS) * 1000 },
});

try {
  const events = client.watch({
    orderIds: env.REWARD_ORDER_IDS.split(",").filter(Boolean),
    start: StreamStart[env.REWARD_START],
    resumeToken: env.REWARD_RESUME_TOKEN,
    heartbeatIntervalMs: Number(env.REWARD_HEARTBEAT_SECONDS) * 1000,
  });
  for await (const event of events) {
    if (event.type === "reset") {
      print({ reset: event.reason });
    } else if (event.type === "snapshot" || event.type === "update") {
      const { orderId, version, state, clientOrderId } = event.order;
      print({ order_id: orderId, version: Number(version), state });
      if (clientOrderId === env.REWARD_UNTIL && isTerminal(event.order)) {
        break;
      }
    }
  }
} catch (error) {
  if (!(error instanceof RewardError)) {
    throw error;
  }
  print({ error: error.code });
  process.exitCode = 1;
} finally {
  client.close();
}
