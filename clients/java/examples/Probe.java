import com.rewardservice.client.FieldViolation;
import com.rewardservice.client.Orders;
import com.rewardservice.client.RewardClient;
import com.rewardservice.client.RewardException;
import com.rewardservice.client.Tls;
import com.rewardservice.client.Yuan;
import com.rewardservice.v1.CreateOrderRequest;
import com.rewardservice.v1.GetOrderRequest;
import com.rewardservice.v1.ListOrderUpdatesRequest;
import com.rewardservice.v1.ListOrdersRequest;
import com.rewardservice.v1.ListProductsRequest;
import com.rewardservice.v1.Order;
import com.rewardservice.v1.OrderView;
import com.rewardservice.v1.Product;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;

/** Every call once, for the tests: {@code Probe calls|errors TARGET [CA CERTIFICATE KEY]} prints what came of each. */
public final class Probe {
    public static void main(String[] arguments) {
        var builder = RewardClient.builder(arguments[1]);
        if (arguments.length > 2) {
            Path[] files = {Path.of(arguments[2]), Path.of(arguments[3]), Path.of(arguments[4])};
            builder.tls(Tls.trusting(files[0]).as(files[1], files[2]));
        }
        try (RewardClient client = builder.build()) {
            if (arguments[0].equals("calls")) {
                calls(client);
            } else {
                errors(client);
            }
        }
        if (arguments[0].equals("errors")) {
            try (RewardClient stranger = builder.key("not-a-key").build()) {
                attempt("key", () -> stranger.getProduct("kasushou/card"));
            }
        }
    }

    private static void calls(RewardClient client) {
        CreateOrderRequest request = card("probe-1").setMaxUnitPrice(Yuan.of("1000")).build();
        String id = client.createOrder(request).getOrder().getOrderId();
        Order done = client.waitFor(id, Duration.ofSeconds(30));
        System.out.println("waited " + Orders.stateName(done) + " " + done.getCards(0).getNumber());
        System.out.println("again " + client.createOrder(request).getReplayed());
        Order masked = client.getOrder(id);
        System.out.println("masked " + masked.getCards(0).getMasked() + " " + masked.getCards(0).getSecret().isEmpty());
        GetOrderRequest full = GetOrderRequest.newBuilder()
                .setClientOrderId("probe-1")
                .setView(OrderView.ORDER_VIEW_FULL)
                .build();
        System.out.println("full " + client.getOrder(full).getCards(0).getNumber());
        client.createOrder(card("probe-2").build());
        List<String> listed = new ArrayList<>();
        for (Order order : client.listOrders(ListOrdersRequest.newBuilder().setPageSize(1).build())) {
            listed.add(order.getClientOrderId());
        }
        System.out.println("orders " + String.join(",", listed));
        var updates = client.listOrderUpdates(
                ListOrderUpdatesRequest.newBuilder().addOrderIds(id).setLimit(1).build());
        System.out.println("updates " + updates.getUpdatesCount() + " " + updates.getMore());
        int products = 0;
        for (Product product : client.products(ListProductsRequest.newBuilder().setPageSize(200).build())) {
            products += product.getProductId().startsWith("kasushou/") ? 1 : 0;
        }
        System.out.println("products " + (products > 1));
        attempt("cancel", () -> client.cancelOrder(id));
    }

    private static void errors(RewardClient client) {
        attempt("product", () -> client.createOrder(card("probe-3").setProductId("no/such").build()));
        attempt("fields", () -> client.createOrder(card("an odd id!").setQuantity(0).build()));
        attempt("order", () -> client.waitFor("01M80ZTTV2EREBY3XB1849TX9V", Duration.ofSeconds(30)));
    }

    private static CreateOrderRequest.Builder card(String id) {
        return CreateOrderRequest.newBuilder().setClientOrderId(id).setProductId("kasushou/card").setQuantity(1);
    }

    private static void attempt(String what, Supplier<?> call) {
        try {
            call.get();
            System.out.println(what + " OK");
        } catch (RewardException error) {
            String fields = String.join(",", error.violations().stream().map(FieldViolation::field).toList());
            System.out.printf(
                    "%s %s %s [%s] [%s] %s%n",
                    what,
                    error.code(),
                    error.reason(),
                    fields,
                    error.clientOrderId(),
                    error.requestId().isEmpty() ? "?" : "traced");
        }
    }
}
