import com.rewardservice.client.*;
import com.rewardservice.v1.*;

public class Quickstart {
    public static void main(String[] arguments) {
        // Yours, and stored before the call: the same id is the same order, however often it is sent.
        String id = "quickstart-java-1";
        try (RewardClient rewards = RewardClient.builder("127.0.0.1:50051").key("dev-key").build()) {
            rewards.createOrder(CreateOrderRequest.newBuilder()
                    .setClientOrderId(id).setProductId("kasushou/card").setQuantity(1).build());
            var ours = StreamOrderUpdatesRequest.newBuilder().addClientOrderIds(id).setUntilTerminal(true).build();
            try (Watch watch = rewards.watch(ours)) {
                while (watch.hasNext()) {
                    if (watch.next() instanceof Event.OrderEvent event) {
                        Order order = event.order();
                        System.out.println("version " + order.getVersion() + ": " + Orders.stateName(order));
                        for (Card card : order.getCardsList()) {
                            System.out.println(card.getNumber() + " " + card.getSecret());
                        }
                    }
                }
            }
        }
    }
}
