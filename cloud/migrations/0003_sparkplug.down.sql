DROP VIEW sparkplug_metric;
DROP TABLE sparkplug_birth;
DROP TABLE sparkplug_definition;
DROP TABLE sparkplug_entity;
