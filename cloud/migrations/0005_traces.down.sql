-- Contexts that publishers gave are lost; those that follow from identities need no table.
DROP FUNCTION forget_traces(interval, integer);
DROP FUNCTION messages_of_trace(text);
DROP FUNCTION trace_id(integer, bigint);
DROP FUNCTION traceparent(integer, bigint);
DROP TABLE message_trace;
