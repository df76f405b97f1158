import com.rewardservice.client.Backoff;
import com.rewardservice.client.Event;
import com.rewardservice.client.Orders;
import com.rewardservice.client.RewardClient;
import com.rewardservice.client.RewardException;
import com.rewardservice.client.Watch;
import com.rewardservice.v1.Order;
import com.rewardservice.v1.StreamOrderUpdatesRequest;
import com.rewardservice.v1.StreamStart;
import java.time.Duration;
import java.util.Arrays;
import java.util.Map;

/** The Java client as reward-client-kit wants to see it; docs/client-kit.md says what it has to do. */
public final class KitClient {
    public static void main(String[] arguments) {
        Map<String, String> env = System.getenv();
        var request = StreamOrderUpdatesRequest.newBuilder()
                .setStart(StreamStart.valueOf("STREAM_START_" + env.get("REWARD_START")))
                .setResumeToken(env.get("REWARD_RESUME_TOKEN"))
                .setHeartbeatInterval(com.google.protobuf.Duration.newBuilder()
                        .setSeconds(Long.parseLong(env.get("REWARD_HEARTBEAT_SECONDS"))));
        Arrays.stream(env.get("REWARD_ORDER_IDS").split(","))
                .filter(id -> !id.isEmpty())
                .forEach(request::addOrderIds);
        long first = Math.round(1000 * Double.parseDouble(env.get("REWARD_BACKOFF_SECONDS")));
        var builder = RewardClient.builder(env.get("REWARD_TARGET"))
                .key(env.get("REWARD_KEY"))
                .backoff(new Backoff(Duration.ofMillis(first), Duration.ofSeconds(10), 30));
        try (RewardClient client = builder.build();
                Watch watch = client.watch(request.build())) {
            while (watch.hasNext()) {
                Event event = watch.next();
                if (event instanceof Event.Reset reset) {
                    System.out.println("{\"reset\": \"" + reset.reason() + "\"}");
                } else if (event instanceof Event.OrderEvent shown) {
                    Order order = shown.order();
                    System.out.printf(
                            "{\"order_id\": \"%s\", \"version\": %d, \"state\": %d}%n",
                            order.getOrderId(), order.getVersion(), order.getStateValue());
                    if (order.getClientOrderId().equals(env.get("REWARD_UNTIL")) && Orders.isTerminal(order)) {
                        return;
                    }
                }
            }
        } catch (RewardException error) {
            System.out.println("{\"error\": \"" + error.code() + "\"}");
            System.exit(1);
        }
    }
}
