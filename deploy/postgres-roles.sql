-- Run once by the postgres image as the owner, when the database is made.
-- The owner migrates the schema. The service and the workers read and write rows and cannot alter it.
\getenv password HEADSTART_SERVICE_PASSWORD
CREATE ROLE headstart_service LOGIN PASSWORD :'password';
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO headstart_service;
GRANT USAGE ON SCHEMA public TO headstart_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO headstart_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
  GRANT USAGE, SELECT ON SEQUENCES TO headstart_service;
