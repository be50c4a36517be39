"""Every exception llama-router raises on purpose, each with its HTTP status and code.

* RouterError (`base`)
  * ConfigError (`config`)
  * RequestError (`requests`)
    * BodyTooLargeError, HeaderTooLargeError, RequestTimeoutError, RequestCancelledError
    * EndpointNotAllowedError, NoModelRunningError, RequestNotFoundError
    * ModelNotLoadedError, ModelLoadedError, ModelExistsError
    * SettingError, ConfigChangedError (`config`)
    * AccessError (`access`)
      * AdminTokenError, ApiKeyError, ModelNotAllowedError
      * HostNotAllowedError, OriginNotAllowedError, MediaTypeError, MetricsOffError
  * AdmissionError (`admission`)
    * UnknownModelError, QueueFullError, QueueTimeoutError, ShuttingDownError
  * BackendError (`backends`)
    * SpawnError
      * FileMissingError
    * PortTakenError, ReadinessTimeoutError, BackendExitedError
    * BackendUnreapableError, BackendFailedError, BackendHungError
  * DownloadError (`downloads`)
    * HubReferenceError, RepositoryMissingError, HubFileMissingError
    * HubAccessError, HubTokenError, HubUnreachableError, HubAnswerError
    * DiskFullError, CacheUnusableError, ModelInUseError, ModelNotCachedError
  * UpstreamError (`backends`)
    * UpstreamTimeoutError

Errors that concern one module only stand in that module.
"""
