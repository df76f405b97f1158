// Package rewardservice is the client of RewardService: orders rewards once and only once, and follows what becomes of
// them.
//
// A [Client] tries calls again under the same id where that is safe, and [Client.Watch] goes on through restarts and
// cut or silent connections. Requests and answers are the messages of the contract, in the package rewardservicev1.
// Every error that a call returns is an [*Error].
package rewardservice

// Version is the version of this module, as sent to the server.
const Version = "0.1.0"
