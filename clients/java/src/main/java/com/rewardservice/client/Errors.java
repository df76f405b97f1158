package com.rewardservice.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Makes exceptions of what gRPC reports. */
final class Errors {
    private static final String DOMAIN = "rewardservice.v1";
    private static final Metadata.Key<String> REQUEST_ID =
            Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

    /** What the transport says by itself is written for those who build transports. */
    private static final Map<Status.Code, String> TRANSPORT_WORDS = Map.of(
            Status.Code.UNAVAILABLE, "the server can't be reached",
            Status.Code.CANCELLED, "the server dropped the call before answering",
            Status.Code.DEADLINE_EXCEEDED, "no answer in time");

    private Errors() {}

    static RewardException closed() {
        return new RewardException(Status.Code.CANCELLED, "the client is closed");
    }

    /** For a thread that somebody asked to stop; it stays asked. */
    static RewardException interrupted() {
        Thread.currentThread().interrupt();
        return new RewardException(Status.Code.CANCELLED, "the thread was interrupted");
    }

    /** The exception for a failed call, with everything that the server said about it. */
    static RewardException of(StatusRuntimeException failure) {
        return of(failure.getStatus(), failure.getTrailers(), failure);
    }

    /** The same; `trailers` may be null. */
    static RewardException of(Status status, Metadata trailers, Throwable cause) {
        RewardException.Details details = details(status, trailers == null ? new Metadata() : trailers);
        String said = status.getDescription() == null ? "" : status.getDescription();
        String words = details.reason().isEmpty() ? TRANSPORT_WORDS.getOrDefault(status.getCode(), "") : "";
        String description = words.isEmpty() || said.isEmpty() ? words + said : words + ": " + said;
        return new RewardException(
                status.getCode(), description.isEmpty() ? "the call failed" : description, details, cause);
    }

    private static RewardException.Details details(Status status, Metadata trailers) {
        ErrorInfo info = ErrorInfo.getDefaultInstance();
        List<FieldViolation> violations = new ArrayList<>();
        Duration retryAfter = null;
        for (Any detail : rich(status, trailers)) {
            try {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo one = detail.unpack(ErrorInfo.class);
                    info = one.getDomain().equals(DOMAIN) ? one : info;
                } else if (detail.is(BadRequest.class)) {
                    for (BadRequest.FieldViolation one : detail.unpack(BadRequest.class).getFieldViolationsList()) {
                        violations.add(new FieldViolation(one.getField(), one.getDescription()));
                    }
                } else if (detail.is(RetryInfo.class)) {
                    retryAfter = Durations.of(detail.unpack(RetryInfo.class).getRetryDelay());
                }
            } catch (InvalidProtocolBufferException unreadable) {
                // The plain code and text still say what happened.
                continue;
            }
        }
        String requestId = trailers.get(REQUEST_ID);
        return new RewardException.Details(
                info.getReason(),
                List.copyOf(violations),
                Map.copyOf(info.getMetadataMap()),
                Optional.ofNullable(retryAfter),
                requestId != null ? requestId : info.getMetadataOrDefault("request_id", ""));
    }

    /** The details of an error; none when there are none, or none that can be read. */
    private static List<Any> rich(Status status, Metadata trailers) {
        try {
            return StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList();
        } catch (RuntimeException unreadable) {
            return List.of();
        }
    }
}
