import { isTerminal, RewardClient, stateName } from "@rewardservice/client";

const client = new RewardClient({ target: "127.0.0.1:50051", key: "dev-key" });
try {
  // The same clientOrderId is the same order: a second run buys nothing and prints the same card.
  const { order } = await client.createOrder({
    clientOrderId: "quickstart-1",
    productId: "kasushou/card",
    quantity: 1,
  });

  for await (const event of client.watch({ orderIds: [order.orderId] })) {
    if (event.type === "snapshot" || event.type === "update") {
      console.log(stateName(event.order.state));
      if (isTerminal(event.order)) {
        for (const { number, secret } of event.order.cards) {
          console.log(`card ${number} secret ${secret}`);
        }
        break;
      }
    }
  }
} finally {
  client.close();
}
