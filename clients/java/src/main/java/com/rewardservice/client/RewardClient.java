package com.rewardservice.client;

import com.rewardservice.v1.CancelOrderRequest;
import com.rewardservice.v1.CatalogServiceGrpc;
import com.rewardservice.v1.CreateOrderRequest;
import com.rewardservice.v1.CreateOrderResponse;
import com.rewardservice.v1.GetOrderRequest;
import com.rewardservice.v1.GetProductRequest;
import com.rewardservice.v1.ListOrderUpdatesRequest;
import com.rewardservice.v1.ListOrderUpdatesResponse;
import com.rewardservice.v1.ListOrdersRequest;
import com.rewardservice.v1.ListOrdersResponse;
import com.rewardservice.v1.ListProductsRequest;
import com.rewardservice.v1.ListProductsResponse;
import com.rewardservice.v1.Order;
import com.rewardservice.v1.Product;
import com.rewardservice.v1.RewardServiceGrpc;
import com.rewardservice.v1.StreamOrderUpdatesRequest;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.time.Duration;
import java.util.Objects;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * A connection to RewardService: calls that are tried again under the same id, and streams that survive whatever
 * becomes of the server. One for the whole program; all threads may use it.
 *
 * <p>Every method throws {@link RewardException}. A thread that is interrupted while it waits gets one with the code
 * CANCELLED, and stays interrupted; so does one whose gRPC {@link Context} ends.
 */
public final class RewardClient implements AutoCloseable {
    private final String target;
    private final Duration timeout;
    private final Backoff backoff;
    private final Connection connection;
    private final boolean asksAnew;
    private final CountDownLatch closed = new CountDownLatch(1);
    private final Set<Watch> watches = ConcurrentHashMap.newKeySet();

    private RewardClient(Builder builder) {
        target = builder.target;
        timeout = builder.timeout;
        backoff = builder.backoff;
        asksAnew = builder.keys != null;
        connection = new Connection(target, builder.source(), builder.tls, builder.configure);
    }

    /** A client for a gRPC target such as "rewards.internal:50051". */
    public static Builder builder(String target) {
        return new Builder(target);
    }

    /** What a client is made with. */
    public static final class Builder {
        private final String target;
        private String key;
        private Supplier<String> keys;
        private Tls tls;
        private Duration timeout = Duration.ofSeconds(10);
        private Backoff backoff = Backoff.DEFAULT;
        private Consumer<ManagedChannelBuilder<?>> configure = channel -> {};

        private Builder(String target) {
            this.target = Objects.requireNonNull(target);
        }

        /**
         * The client's API key. Without one the environment variable REWARDSERVICE_KEY holds it. If that is empty, too,
         * a client with a certificate of its own sends none, and "dev-key" is used for a server on this machine only.
         */
        public Builder key(String key) {
            this.key = key;
            keys = null;
            return this;
        }

        /**
         * For tokens that expire: asked for a key or token anew for each call and each connection of a stream, in the
         * thread that makes the call. The time that it takes is the call's, and what it throws is thrown. A stream that
         * is refused as UNAUTHENTICATED goes on if it then brings another one.
         */
        public Builder key(Supplier<String> keys) {
            this.keys = Objects.requireNonNull(keys);
            key = null;
            return this;
        }

        /**
         * Encrypts the connection. Without it key and cards are readable on the way, so do without inside one machine
         * only, or where something below encrypts.
         */
        public Builder tls(Tls tls) {
            this.tls = tls;
            return this;
        }

        /** How long a unary call may take, retries included; 10 s unless said otherwise. */
        public Builder timeout(Duration timeout) {
            this.timeout = Objects.requireNonNull(timeout);
            return this;
        }

        /** Paces retries and reconnects. */
        public Builder backoff(Backoff backoff) {
            this.backoff = Objects.requireNonNull(backoff);
            return this;
        }

        /** Changes the gRPC channel before it is made, as for interceptors or a proxy. */
        public Builder configure(Consumer<ManagedChannelBuilder<?>> configure) {
            this.configure = Objects.requireNonNull(configure);
            return this;
        }

        /**
         * The client; it connects with its first call.
         *
         * @throws IllegalArgumentException when there is no key, or one with characters that no key has
         * @throws java.io.UncheckedIOException when a file for TLS can't be read
         */
        public RewardClient build() {
            return new RewardClient(this);
        }

        private Supplier<String> source() {
            Supplier<String> given = keys;
            if (given != null) {
                return () -> Connection.checked(given.get());
            }
            String usable = Connection.usableKey(target, key, tls != null && tls.isCertified());
            return () -> usable;
        }
    }

    /**
     * Orders a reward: once, however often this is called with the same {@code client_order_id}.
     *
     * <p><b>Give your own client_order_id, stored before the call, whenever the call may be repeated</b> by your
     * program or by a person. Without one a new UUID is made: it covers the retries inside this call, and nothing after
     * it (on an error it is in {@link RewardException#clientOrderId}).
     *
     * <p>With {@code wait} the server waits for so long (up to 30 s) for the order to end before it answers; that is
     * added to the client's timeout.
     */
    public CreateOrderResponse createOrder(CreateOrderRequest request) {
        CreateOrderRequest named = request.getClientOrderId().isEmpty()
                ? request.toBuilder().setClientOrderId(UUID.randomUUID().toString()).build()
                : request;
        try {
            return call(RewardServiceGrpc.getCreateOrderMethod(), named, timeout.plus(Durations.of(request.getWait())));
        } catch (RewardException error) {
            throw error.withClientOrderId(named.getClientOrderId());
        }
    }

    /** Reads one order. View FULL shows its cards, EXPLAINED its purchases; without a view cards are masked. */
    public Order getOrder(GetOrderRequest request) {
        return call(RewardServiceGrpc.getGetOrderMethod(), request).getOrder();
    }

    /** Reads one order, cards masked. */
    public Order getOrder(String orderId) {
        return getOrder(GetOrderRequest.newBuilder().setOrderId(orderId).build());
    }

    /**
     * Cancels what can still be cancelled of an order and returns it as it is now.
     *
     * <p>If nothing was sent to a supplier it is CANCELLED. Otherwise {@code cancel_requested_time} is set, nothing new
     * is sent, and the order ends as the supplier's evidence says: follow it with {@link #watch} or {@link #waitFor}.
     * It may be repeated. The reason ORDER_NOT_CANCELLABLE says that the order has ended otherwise.
     */
    public Order cancelOrder(CancelOrderRequest request) {
        return call(RewardServiceGrpc.getCancelOrderMethod(), request).getOrder();
    }

    /** Cancels what can still be cancelled of an order. */
    public Order cancelOrder(String orderId) {
        return cancelOrder(CancelOrderRequest.newBuilder().setOrderId(orderId).build());
    }

    /** The orders that fit every filter, newest first, cards masked. Pages are fetched while iterating. */
    public Iterable<Order> listOrders(ListOrdersRequest request) {
        return () -> new Pages<>(
                request.getPageToken(),
                token -> call(
                        RewardServiceGrpc.getListOrdersMethod(), request.toBuilder().setPageToken(token).build()),
                ListOrdersResponse::getOrdersList,
                ListOrdersResponse::getNextPageToken);
    }

    /**
     * One page of the updates after a token, oldest first; from the oldest that is kept without one. Go on with the
     * answer's token while it says that there is more. The code OUT_OF_RANGE tells of a token that can't be continued.
     */
    public ListOrderUpdatesResponse listOrderUpdates(ListOrderUpdatesRequest request) {
        return call(RewardServiceGrpc.getListOrderUpdatesMethod(), request);
    }

    /** All products by id. */
    public Iterable<Product> products() {
        return products(ListProductsRequest.getDefaultInstance());
    }

    /** The products by id; of one kind if asked. Pages are fetched while iterating. */
    public Iterable<Product> products(ListProductsRequest request) {
        return () -> new Pages<>(
                request.getPageToken(),
                token -> call(
                        CatalogServiceGrpc.getListProductsMethod(), request.toBuilder().setPageToken(token).build()),
                ListProductsResponse::getProductsList,
                ListProductsResponse::getNextPageToken);
    }

    /** Reads one product. */
    public Product getProduct(String productId) {
        GetProductRequest request = GetProductRequest.newBuilder().setProductId(productId).build();
        return call(CatalogServiceGrpc.getGetProductMethod(), request).getProduct();
    }

    /**
     * What happens to the selected orders (none selected: all of the client's), in order and once.
     *
     * <p>It begins after the request's token, or else with a snapshot of the orders as they are, unless {@code start}
     * says otherwise. It survives restarts, cut and silent connections: it connects again with the last token and
     * leaves out what came before. Keep the token of the last event that was dealt with, to go on after a restart of
     * your own program. A token that the server can't continue is answered with {@link Event.Reset} and a snapshot. It
     * ends only with {@code until_terminal} (ids needed), once every selected order has ended.
     *
     * <p>{@code heartbeat_interval} is 1 to 60 s, 15 s if unset; a connection silent for three times as long is left (a
     * new one after 10 s at the earliest). View FULL, the default for clients that may read cards, shows the cards.
     * Close the watch to end its stream.
     */
    public Watch watch(StreamOrderUpdatesRequest request) {
        return watch(request, null);
    }

    /** The same, but after so long of failing the last error is thrown; null tries for ever. */
    public Watch watch(StreamOrderUpdatesRequest request, Duration giveUpAfter) {
        Watch watch = new Watch(this, request, giveUpAfter);
        watches.add(watch);
        return watch;
    }

    /**
     * Waits until an order has ended or needs a review, and returns it (with its cards, if they may be read).
     *
     * @throws WaitTimeoutException after the timeout; the order goes on
     */
    public Order waitFor(String orderId, Duration timeout) {
        return waitFor(StreamOrderUpdatesRequest.newBuilder().addOrderIds(orderId).build(), orderId, timeout);
    }

    /** The same by the client's own id. One that wasn't ordered yet is awaited. */
    public Order waitForClientOrder(String clientOrderId, Duration timeout) {
        var request = StreamOrderUpdatesRequest.newBuilder().addClientOrderIds(clientOrderId).build();
        return waitFor(request, clientOrderId, timeout);
    }

    private Order waitFor(StreamOrderUpdatesRequest request, String id, Duration timeout) {
        long began = System.nanoTime();
        long nanos = Durations.nanos(timeout);
        Order order = null;
        try (Watch watch = watch(request)) {
            for (Event event; (event = watch.next(nanos - (System.nanoTime() - began))) != null; ) {
                if (event instanceof Event.OrderEvent shown) {
                    order = shown.order();
                    if (Orders.isSettled(order)) {
                        return order;
                    }
                }
            }
        }
        String state = order == null ? "was never seen" : "is " + Orders.stateName(order);
        String waited = " after " + timeout.toMillis() / 1000.0 + " s of waiting";
        throw new WaitTimeoutException("order " + id + " " + state + waited, order);
    }

    /**
     * The channel, which adds the key to every call: for the generated stubs, as in {@code
     * OperatorServiceGrpc.newBlockingStub(client.channel())}. Calls over it are neither limited in time nor tried
     * again.
     */
    public Channel channel() {
        return connection.channel();
    }

    /** Closes the connection. Calls and watches under way throw. */
    @Override
    public void close() {
        closed.countDown();
        watches.forEach(Watch::wake);
        connection.close();
    }

    @Override
    public String toString() {
        return "RewardClient[" + target + "]";
    }

    boolean isClosed() {
        return closed.getCount() == 0;
    }

    Backoff backoff() {
        return backoff;
    }

    /** Whether the key may be another one the next time. */
    boolean asksAnew() {
        return asksAnew;
    }

    Connection connection() {
        return connection;
    }

    void forget(Watch watch) {
        watches.remove(watch);
    }

    private <Q, R> R call(MethodDescriptor<Q, R> method, Q request) {
        return call(method, request, timeout);
    }

    /** Calls until an answer comes, within `limit` in all. */
    private <Q, R> R call(MethodDescriptor<Q, R> method, Q request, Duration limit) {
        long began = System.nanoTime();
        long nanos = Durations.nanos(limit);
        for (int failures = 1; ; failures++) {
            RewardException error;
            try {
                if (isClosed()) {
                    throw Errors.closed();
                }
                connection.endPause();
                long left = nanos - (System.nanoTime() - began);
                return ClientCalls.blockingUnaryCall(
                        connection.channel(),
                        method,
                        CallOptions.DEFAULT.withDeadlineAfter(left, TimeUnit.NANOSECONDS),
                        request);
            } catch (StatusRuntimeException failure) {
                error = Errors.of(failure);
            }
            if (!error.isRetryable()) {
                throw error;
            }
            // Whatever gRPC calls it: these three are the caller's own doing.
            if (isClosed()) {
                throw Errors.closed();
            }
            if (Thread.currentThread().isInterrupted()) {
                throw Errors.interrupted();
            }
            if (Context.current().isCancelled()) {
                throw new RewardException(Status.Code.CANCELLED, "the caller's context has ended");
            }
            long delay = Durations.nanos(backoff.delay(failures, error.retryAfter().orElse(Duration.ZERO)));
            boolean hasTime = System.nanoTime() - began + delay < nanos;
            if (failures >= backoff.attempts() || !hasTime) {
                throw error;
            }
            pause(delay);
        }
    }

    private void pause(long nanos) {
        try {
            // Closing the client ends the pause; the next round says so.
            closed.await(nanos, TimeUnit.NANOSECONDS);
        } catch (InterruptedException stop) {
            throw Errors.interrupted();
        }
    }
}
