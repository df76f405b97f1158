/** Everything that is generated from the contract `rewardservice.v1`: types, enums, schemas and services. */
export * from "./gen/google/type/date_pb.js";
export * from "./gen/google/type/money_pb.js";
export * from "./gen/rewardservice/v1/catalog_service_pb.js";
export * from "./gen/rewardservice/v1/error_reason_pb.js";
export * from "./gen/rewardservice/v1/operator_service_pb.js";
export * from "./gen/rewardservice/v1/order_pb.js";
export * from "./gen/rewardservice/v1/reward_service_pb.js";
