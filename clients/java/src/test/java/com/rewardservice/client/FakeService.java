package com.rewardservice.client;

import com.rewardservice.v1.CreateOrderRequest;
import com.rewardservice.v1.CreateOrderResponse;
import com.rewardservice.v1.Heartbeat;
import com.rewardservice.v1.Order;
import com.rewardservice.v1.RewardServiceGrpc;
import com.rewardservice.v1.StreamOrderUpdatesRequest;
import com.rewardservice.v1.StreamOrderUpdatesResponse;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;

/** A server of gRPC that fails as told. When nothing is left to fail with, it answers. */
final class FakeService extends RewardServiceGrpc.RewardServiceImplBase implements AutoCloseable {
    final List<CreateOrderRequest> created = new CopyOnWriteArrayList<>();
    /** The authorization of every call; "" of one without. */
    final List<String> keys = new CopyOnWriteArrayList<>();

    /** Where every stream was to begin. */
    final List<String> resumed = new CopyOnWriteArrayList<>();

    final CountDownLatch asked = new CountDownLatch(1);
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final Queue<StatusRuntimeException> failures = new ConcurrentLinkedQueue<>();
    private final Queue<String> refusedAfter = new ConcurrentLinkedQueue<>();
    private final Server server;
    private final CompletableFuture<StreamObserver<StreamOrderUpdatesResponse>> stream = new CompletableFuture<>();
    private boolean silent;

    FakeService() throws IOException {
        server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(this)
                .intercept(new ServerInterceptor() {
                    @Override
                    public <Q, R> ServerCall.Listener<Q> interceptCall(
                            ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
                        keys.add(headers.containsKey(AUTHORIZATION) ? headers.get(AUTHORIZATION) : "");
                        return next.startCall(call, headers);
                    }
                })
                .build()
                .start();
    }

    FakeService failing(StatusRuntimeException... errors) {
        failures.addAll(List.of(errors));
        return this;
    }

    /** Takes calls and never answers. */
    FakeService silent() {
        silent = true;
        return this;
    }

    /** Ends streams as those of tokens that are over: each after a heartbeat with one of these tokens; "" for none. */
    FakeService refusingAfter(String... tokens) {
        refusedAfter.addAll(List.of(tokens));
        return this;
    }

    RewardClient client() {
        return builder().key("some-key").build();
    }

    RewardClient.Builder builder() {
        return RewardClient.builder("127.0.0.1:" + server.getPort())
                .backoff(new Backoff(java.time.Duration.ofMillis(1), java.time.Duration.ofMillis(2), 3));
    }

    @Override
    public void createOrder(CreateOrderRequest request, StreamObserver<CreateOrderResponse> answers) {
        created.add(request);
        asked.countDown();
        StatusRuntimeException failure = failures.poll();
        if (failure != null) {
            answers.onError(failure);
        } else if (!silent) {
            Order order = Order.newBuilder().setClientOrderId(request.getClientOrderId()).build();
            answers.onNext(CreateOrderResponse.newBuilder().setOrder(order).build());
            answers.onCompleted();
        }
    }

    @Override
    public void streamOrderUpdates(
            StreamOrderUpdatesRequest request, StreamObserver<StreamOrderUpdatesResponse> answers) {
        resumed.add(request.getResumeToken());
        String token = refusedAfter.poll();
        if (token != null) {
            if (!token.isEmpty()) {
                var heartbeat = Heartbeat.newBuilder().setResumeToken(token);
                answers.onNext(StreamOrderUpdatesResponse.newBuilder().setHeartbeat(heartbeat).build());
            }
            answers.onError(Status.UNAUTHENTICATED.withDescription("the token is over").asRuntimeException());
            return;
        }
        stream.complete(answers);
        asked.countDown();
    }

    /** Sends a message over the first stream. */
    void send(StreamOrderUpdatesResponse message) {
        stream.join().onNext(message);
    }

    @Override
    public void close() {
        server.shutdownNow();
    }
}
